ENTRY(rotate)
ENTRY(rotate_without_barrier)
ENTRY(rotate_some)
ENTRY(write_word)
