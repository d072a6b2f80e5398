package instance

import "golang.org/x/sys/windows"

func wants() []error {
	return []error{windows.ERROR_TOO_MANY_OPEN_FILES, windows.ERROR_NOT_ENOUGH_MEMORY, windows.ERROR_DISK_FULL}
}
