package main

// systemKillsOrphans says that the kernel ends osqueryd with its host.
const systemKillsOrphans = true
