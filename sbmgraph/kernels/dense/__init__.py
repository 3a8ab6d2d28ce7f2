"""The dense algorithm: every pair's probability against a uniform number, one bit a pair."""
