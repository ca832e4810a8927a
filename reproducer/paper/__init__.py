"""The paper as data: its tables and figures, its claims, its slips, its own method.

`catalogue` says what is in a file of a table or figure, `claims` what is claimed and how it is judged; `audit`
recomputes what the paper derives from its own tables.
"""
