"""From files, tables and thumbs to rows of token ids, with masks that are proven and an order that can be resumed."""
