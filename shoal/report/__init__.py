"""Reports: what a plan or a run looks like to a person."""
