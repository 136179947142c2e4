"""A fleet of unequal agents on virtual time, and the policies that race on it."""
