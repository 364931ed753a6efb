"""The one reader of rows: files and tables in memory to a network's inputs.

`address_of` finds where data are, `find_parts` the files, `read_rows` their rows, and `InputMaker`
makes inputs of them by the spec that training wrote. What a cell means is said once, in `cells`.
"""
