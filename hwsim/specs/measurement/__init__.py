"""Tables of measurements: vocabulary, rules, files, columns."""
