"""What a protected call costs, next to what one could take instead.

`workloads` is what is called, `ours`, `by_hand` and `peers` protect it,
`scenes` lists the comparisons, `rounds` measures, `footprint` weighs
what is no time of a call, `targets` judges, `page` writes it down.
"""
