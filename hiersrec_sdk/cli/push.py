"""The command ``push``."""

from __future__ import annotations

from pathlib import Path

import click

from hiersrec_sdk import Recommender
from hiersrec_sdk.cli.common import PATH


@click.command()
@click.argument("bundle", type=PATH)
@click.argument("repo", metavar="ORG/NAME")
@click.option("--revision", help="Branch to push to; made if it is not there.  [default: the main branch]")
@click.option(
    "--message", help="Message of the commit.  [default: Upload a bundle of HierSRec SDK]", metavar="TEXT"
)
@click.option(
    "--private/--public",
    default=True,
    show_default=True,
    help="Who can see a repository that is made; one that is there stays as it is.",
)
@click.option(
    "--exist-ok", is_flag=True, help="The repository may be there already: replace the bundle in it."
)
def push(
    bundle: Path, repo: str, revision: str | None, message: str | None, private: bool, exist_ok: bool
) -> None:
    """Upload BUNDLE to the repository ORG/NAME of the Hugging Face Hub, in one commit.

    \b
    hf auth login
    hiersrec push bundle org/name

    The bundle is verified first. Recommender.from_pretrained("org/name") loads it again. It holds your catalog and its
    click counts: so a new repository is private unless you say --public.

    The token comes from 'hf auth login' or from HF_TOKEN. Needs the extra hub.
    """
    url = Recommender.load(bundle).push_to_hub(
        repo, revision=revision, commit_message=message, private=private, exist_ok=exist_ok
    )
    click.echo(f"pushed to {url}")
