"""Judge: every score is a certificate with its n, interval, baseline and contamination evidence (`evals.base.Score`)."""
