"""Scripts behind the documentation's figures; run from the top of the repository."""
