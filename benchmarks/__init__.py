"""Speed, measured: never asserted by a test.

    python -m benchmarks.recommend         where the time of a call goes, of unchanged and of changed catalogs
    python -m benchmarks.ranking           ranking alone, beside its peers and a plain read of the same bytes
    python -m benchmarks.pictures          time against catalog size and against recall, from runs of the ranking
    python -m benchmarks.catalog_updates   what changes of the catalog cost, and what they do to readers
    python -m benchmarks.prepare_cost      time and memory of `hiersrec prepare` against the number of events
    python -m benchmarks.training_cost     sessions a second and memory against the number of items
    python -m pytest benchmarks            pytest-benchmark: the backends of the kernel, and ``recommend``

The peers are the extra ``bench``, beside those that ``scripts/setup`` installs:

    pip install -c constraints.txt -e '.[bench]'
"""
