"""How fast the parts are, as ratios of things measured side by side.

A machine's speed changes from minute to minute, so nothing here is judged by its seconds: every figure is compared with
another one measured in turn with it, in the same run. Peak memory is measured in a fresh process, never computed.
Each part is a program (`python -m benchmarks.step --help`): `make bench` calls them on the CPU, `make gpu` on a GPU.
Begin with `measure`, on which all parts stand.
"""
