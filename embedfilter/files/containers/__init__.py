"""The formats that hold arrays by name, without a word on what they mean: a header, then bytes."""
