package osquerydtest

// unixAddrSpace is what sockaddr_un has for a path, its final 0 included.
const unixAddrSpace = 108
