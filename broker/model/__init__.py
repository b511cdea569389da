"""Pure data and rules: values, keys, tables, streams, errors, time. No I/O and no third-party imports."""
