"""The command line ``hiersrec``: one command for each step from a click log to recommendations.

Commands that train or export import torch when they run, so that the other commands need the runtime alone.
"""

from __future__ import annotations

import click

from hiersrec_sdk import __version__
from hiersrec_sdk.cli.cache import cache
from hiersrec_sdk.cli.catalog import catalog
from hiersrec_sdk.cli.common import Group
from hiersrec_sdk.cli.completion import completion
from hiersrec_sdk.cli.data import prepare, simulate
from hiersrec_sdk.cli.doctor import doctor
from hiersrec_sdk.cli.evaluation import compare, evaluate
from hiersrec_sdk.cli.push import push
from hiersrec_sdk.cli.quickstart import quickstart
from hiersrec_sdk.cli.serve import serve
from hiersrec_sdk.cli.serving import explain, inspect, recommend
from hiersrec_sdk.cli.training import export, train
from hiersrec_sdk.cli.tuning import tune


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="hiersrec")
def main() -> None:
    """Session-based next-item recommendation: prepare click logs, train, export a bundle, recommend.

    New here? hiersrec quickstart shows all of it with a simulated shop. Then, with a click log of your own:

    \b
    hiersrec prepare events.csv --items items.csv --category-column category --test-days 7 --out data
    hiersrec train data --out run
    hiersrec export run --out bundle
    hiersrec evaluate bundle data
    hiersrec recommend bundle ITEM ITEM
    """


data_to_bundle = simulate, prepare, tune, train, export, evaluate, compare
with_a_bundle = inspect, recommend, serve, explain, catalog, push, cache
about_itself = doctor, completion
for command in (quickstart, *data_to_bundle, *with_a_bundle, *about_itself):
    main.add_command(command)
