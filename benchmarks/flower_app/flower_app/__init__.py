"""A Flower App, as Flower 1.41 and newer know it: the peers' half of the benchmarks."""
