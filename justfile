# What CI runs, in the same order.
check:
    cargo xtask test

# The generated files.
gen:
    cargo xtask gen

# Each fuzz target for a while.
fuzz seconds="60":
    cargo xtask fuzz --seconds {{seconds}}
