"""The drivers that come with pysuper; registered in pyproject.toml as those of any other distribution are."""
