"""What every door for browsers shares: the names it is called by, sealed responses, sign-in by key, page parts, plots.

Knows HTTP's dangers and the house's look. Which pages there are, and what they tell, is each part's.
"""
