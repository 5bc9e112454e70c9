"""One page of experiments: verdict, tables, figures; everything drawn from the score store."""
