"""From the user's rows to the prepared data set: fetched, checked, tokenised, with the learned tokens marked."""
