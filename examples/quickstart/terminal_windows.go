package main

import (
	"os"

	"golang.org/x/sys/windows"
)

// terminalWidth says whether f is a console that can be drawn on, and how many
// columns it has. It makes the console understand ANSI, which older ones do only
// when they are asked.
func terminalWidth(f *os.File) (columns int, ok bool) {
	console := windows.Handle(f.Fd())
	var mode uint32
	if windows.GetConsoleMode(console, &mode) != nil {
		return 0, false
	}
	if windows.SetConsoleMode(console, mode|windows.ENABLE_VIRTUAL_TERMINAL_PROCESSING) != nil {
		return 0, false
	}
	var info windows.ConsoleScreenBufferInfo
	if windows.GetConsoleScreenBufferInfo(console, &info) != nil {
		return 0, true
	}
	return int(info.Window.Right-info.Window.Left) + 1, true
}
