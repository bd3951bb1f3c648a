"""People: their accounts, the browsers they are signed in with, and the conversations they keep."""
