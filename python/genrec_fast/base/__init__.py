"""The words that all parts share: jagged rows, columns, questions and answers, protocols."""
