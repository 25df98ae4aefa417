"""The study of docs/study.md: its pictures, its model, its sweeps and what they say."""
