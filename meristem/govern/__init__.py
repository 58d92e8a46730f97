"""Account: model card, report and chain of hashes, built only from the files of a run folder."""
