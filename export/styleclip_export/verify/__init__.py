"""Verification that the project computes what the official code computes, on a golden folder.

`runner` runs the cases. Each of `alignment`, `clip`, `direction`, `encoder`, `features`, `fs3`,
`generator` and `tf_pickle` is one kind of case: it finds its files by their names and takes all
sizes from them.
"""
