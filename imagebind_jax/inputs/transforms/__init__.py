"""Turn one record into the input of one encoder, in numpy."""
