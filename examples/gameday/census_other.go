//go:build !linux

package main

func (w *world) inhabitants() []inhabitant { return w.listed() }
