package main

import (
	"context"
	"os"
	"os/exec"
	"sync"
	"syscall"
)

// child is the process that a candidate runs while it leads.
type child struct {
	process *exec.Cmd
	ended   chan struct{} // closed when it is dead and reaped
}

// signal reaches the child alone: wrappers of this kind know of no tree. A dead one gets nothing.
func (c *child) signal(signal os.Signal) {
	_ = c.process.Process.Signal(signal)
}

// code is the exit code of an ended child, 128+n when a signal ended it.
func (c *child) code() int {
	status := c.process.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

// ward holds the child of a candidate, of which there is at most one.
//
// It guards against a child that is started just after it would have been killed: whoever ends a
// context and then calls kill knows that nothing runs, and that nothing will under that context.
type ward struct {
	mutex sync.Mutex
	child *child // nil unless one is to run
}

// start starts the child and returns it, or nil if the context is over.
func (w *ward) start(ctx context.Context, command []string) *child {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	if ctx.Err() != nil {
		return nil
	}
	process := exec.Command(command[0], command[1:]...)
	process.Stdin, process.Stdout, process.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := process.Start(); err != nil {
		fail("cannot start the child", err)
	}
	log.Info("child started", "pid", process.Process.Pid)
	started := &child{process, make(chan struct{})}
	go func() {
		_ = process.Wait() // its state says more than the error
		log.Info("child ended", "code", started.code())
		close(started.ended)
	}()
	w.child = started
	return started
}

// kill returns when the child, if there is one, is dead and reaped. What it has started lives on.
func (w *ward) kill() {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	if w.child != nil {
		w.child.signal(syscall.SIGKILL)
		<-w.child.ended
		w.child = nil
	}
}

// runs says whether this child is still meant to run: nobody has killed it.
func (w *ward) runs(c *child) bool {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return w.child == c
}

// unlessOccupied acts while no child runs and none can be started.
func (w *ward) unlessOccupied(act func()) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	if w.child == nil {
		act()
	}
}
