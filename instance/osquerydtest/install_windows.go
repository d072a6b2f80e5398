package osquerydtest

// installBinary puts this program at path; symbolic links need a privilege.
func installBinary(self, path string, _ bool) error { return linkOrCopy(self, path) }

func safeBinary(string) bool { return true }
