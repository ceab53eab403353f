"""A page to try out a bundle: the session on the left, recommendations and explanations on the right.

streamlit run examples/streamlit_page.py --browser.gatherUsageStats false -- bundle
"""

from __future__ import annotations

import os
import sys

import numpy as np
import streamlit as st

from hiersrec_sdk import Recommender

ItemId = int | str


@st.cache_resource  # once per server, not once per visitor and click
def load(bundle: str) -> tuple[Recommender, dict[ItemId, str], dict[str, ItemId]]:
    """The recommender, a label for each item, and each item by its id as text."""
    recommender = Recommender.load(bundle)
    catalog = recommender.catalog
    ids = catalog.ids(np.arange(len(catalog)))
    labels = {item_id: catalog.title(row) or str(item_id) for row, item_id in enumerate(ids)}
    return recommender, labels, {str(item_id): item_id for item_id in ids}


st.set_page_config("Recommendations", layout="wide")
recommender, labels, by_text = load(sys.argv[1] if len(sys.argv) > 1 else os.environ["HIERSREC_BUNDLE"])

# The session is part of the URL (?session=A&session=B), so that a page can be shared.
session = [by_text[text] for text in st.query_params.get_all("session") if text in by_text]


def set_session(items: list[ItemId]) -> None:
    st.query_params["session"] = [str(item_id) for item_id in items]


def add(item_id: ItemId) -> None:
    set_session([*session, item_id])


with st.sidebar:
    st.header("Session")
    wanted = st.text_input("Find an item", placeholder="part of a title or id").casefold()
    matches = [
        item_id
        for item_id, label in labels.items()
        if wanted in label.casefold() or wanted == str(item_id).casefold()
    ]
    matches.sort(key=lambda item_id: (not labels[item_id].casefold().startswith(wanted), labels[item_id]))
    chosen = st.selectbox(f"{len(matches):,} found", matches[:200], format_func=labels.__getitem__)
    st.button("Add to the session", on_click=add, args=(chosen,), disabled=not matches, type="primary")
    for position, item_id in enumerate(session, start=1):
        st.write(f"{position}. {labels[item_id]}")
    back, clear = st.columns(2)
    back.button("Undo", on_click=set_session, args=(session[:-1],), disabled=not session, width="stretch")
    clear.button("Clear", on_click=set_session, args=([],), disabled=not session, width="stretch")
    k = st.slider("Items", 1, 50, 10)
    exclude_seen = st.toggle("Hide items of the session", value=True)

result = recommender.recommend(session, k, exclude_seen=exclude_seen)
st.header("Next items")
if result.mode == "popular":
    st.info("The session is empty: these are the most popular items. Add one to the session.")
else:
    st.subheader("Predicted category, level by level")
    for column, hit in zip(st.columns(len(result.category_path)), result.category_path, strict=True):
        column.progress(hit.probability, f"{hit.category}: {hit.probability:.1%}")
items, why = st.columns([2, 3])
items.subheader("Recommended items")
items.dataframe(
    {
        "item": [labels[item_id] for item_id in result.items],
        "score": result.scores,
        "id": [str(item_id) for item_id in result.items],
    },
    hide_index=True,
)
why.subheader("Why this item?")
asked = why.selectbox("Item", result.items, format_func=labels.__getitem__)
if session and len(result):
    why.code(str(recommender.explain(session, asked)), language=None, wrap_lines=True)
