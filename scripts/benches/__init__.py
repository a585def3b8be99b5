"""The benchmarks behind `make bench`: one file per question, each a function `rows(quick)` of rows for bench.csv."""
