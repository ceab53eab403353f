"""A page to look at what a bundle answers: a session on the left, what it leads to on the right.

streamlit run examples/streamlit_page.py -- bundle
"""

from __future__ import annotations

import os
import sys

import numpy as np
import streamlit as st

from hiersrec_sdk import Recommender

ItemId = int | str


@st.cache_resource  # once for the server, not once for each visitor and each of their clicks
def load(bundle: str) -> tuple[Recommender, dict[ItemId, str], dict[str, ItemId]]:
    """The recommender, a label for each item, and each item by its id as text."""
    recommender = Recommender.load(bundle)
    catalog = recommender.catalog
    ids = catalog.ids(np.arange(len(catalog)))
    labels = {own: catalog.title(row) or str(own) for row, own in enumerate(ids)}
    return recommender, labels, {str(own): own for own in ids}


st.set_page_config("Recommendations", layout="wide")
recommender, labels, by_text = load(sys.argv[1] if len(sys.argv) > 1 else os.environ["HIERSREC_BUNDLE"])

# The session lives in the address (?session=A&session=B), so that a page can be sent to somebody.
session = [by_text[text] for text in st.query_params.get_all("session") if text in by_text]


def set_session(items: list[ItemId]) -> None:
    st.query_params["session"] = [str(own) for own in items]


def clickable(own: ItemId) -> None:
    set_session([*session, own])


with st.sidebar:
    st.header("Session")
    wanted = st.text_input("Find an item", placeholder="part of a title or id").casefold()
    matches = [
        own for own, label in labels.items() if wanted in label.casefold() or wanted == str(own).casefold()
    ]
    matches.sort(key=lambda own: (not labels[own].casefold().startswith(wanted), labels[own]))
    chosen = st.selectbox(f"{len(matches):,} found", matches[:200], format_func=labels.__getitem__)
    st.button("Add to the session", on_click=clickable, args=(chosen,), disabled=not matches, type="primary")
    for place, own in enumerate(session, start=1):
        st.write(f"{place}. {labels[own]}")
    back, clear = st.columns(2)
    back.button(
        "Take back", on_click=set_session, args=(session[:-1],), disabled=not session, width="stretch"
    )
    clear.button("Start anew", on_click=set_session, args=([],), disabled=not session, width="stretch")
    k = st.slider("Items", 1, 50, 10)
    exclude_seen = st.toggle("Not those of the session", value=True)

result = recommender.recommend(session, k, exclude_seen=exclude_seen)
st.header("What comes next")
if result.mode == "popular":
    st.info("Nothing was clicked yet: these are the most popular items. Add one to the session.")
else:
    st.subheader("Predicted category, level by level")
    for column, hit in zip(st.columns(len(result.category_path)), result.category_path, strict=True):
        column.progress(hit.probability, f"{hit.name or hit.category}: {hit.probability:.1%}")
items, why = st.columns([2, 3])
items.subheader("Recommended items")
items.dataframe(
    {
        "item": [labels[own] for own in result.items],
        "score": result.scores,
        "id": [str(own) for own in result.items],
    },
    hide_index=True,
)
why.subheader("Why this item?")
asked = why.selectbox("Item", result.items, format_func=labels.__getitem__)
if session and len(result):
    why.code(str(recommender.explain(session, asked)), language=None, wrap_lines=True)
