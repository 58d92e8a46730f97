"""Find passages and answer from them: `chunks` cut documents, `store` finds, `answer` writes, cites and refuses."""
