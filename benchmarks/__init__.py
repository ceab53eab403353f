"""Speed, measured: never asserted by a test. ``CONTRIBUTING.md`` lists the commands.

The peers are the extra ``bench``, beside those that ``scripts/setup`` installs:

    pip install -c constraints.txt -e '.[bench]'
"""
