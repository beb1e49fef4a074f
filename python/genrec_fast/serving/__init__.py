"""Answers for many callers: batches of concurrent questions, histories that go on, HTTP."""
