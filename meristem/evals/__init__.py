"""Judge: every score is a certificate with n, interval, baseline and contamination evidence (`evals.base.Score`)."""
