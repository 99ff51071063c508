"""Speed on this machine: the library beside other libraries, in per cent of the machine's own limits, against stated goals.

`rows` declares what is measured and what for; `problems` makes the data and checks results; `peers` are the other libraries,
each in a process of its own (`worker`), which `measure` asks in turn. `results` is what is written to JSON; `tables`,
`markdown`, `page` and `compare` read it.
"""
