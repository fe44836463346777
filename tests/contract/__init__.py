"""The contract: every explainer on every awkward network is right by an oracle, or refuses in words.

`zoo` has the networks, `oracles` what is right, `expected` the table, `test_contract` holds them against each other, and
`python -m tests.contract` writes the table into docs/networks.md and the cards.
"""
