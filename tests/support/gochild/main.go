// Command gochild is a child beside the test child: a static program, for roots that hold
// no interpreter. It tells the witness that it lives, and ends at SIGTERM, after -drain, with -exit.
//
// The protocol is that of tests/support/witness.py; who it is comes from the environment, as there.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"
	"unsafe"
)

const (
	clockBoottime = 7
	exitNoWitness = 97
)

// nowNS is CLOCK_BOOTTIME, the witness's clock.
func nowNS() int64 {
	var now syscall.Timespec
	_, _, errno := syscall.RawSyscall(
		syscall.SYS_CLOCK_GETTIME, clockBoottime, uintptr(unsafe.Pointer(&now)), 0)
	if errno != 0 {
		panic(errno)
	}
	return now.Nano()
}

// witness is the connection that lives as long as this process.
type witness struct{ net.Conn }

func meet(startedNS int64) witness {
	connection, err := net.Dial("unix", os.Getenv("WITNESS_SOCKET"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "gochild: cannot reach the witness:", err)
		os.Exit(exitNoWitness)
	}
	met := witness{connection}
	met.tell(map[string]any{
		"candidate":  os.Getenv("WITNESS_CANDIDATE"),
		"run":        os.Getenv("LEADER_FENCING_TOKEN"),
		"main":       os.Getpid(),
		"role":       "main",
		"started_ns": startedNS,
	})
	go func() {
		_, _ = io.Copy(io.Discard, connection)
		os.Exit(exitNoWitness) // nobody may live unwitnessed
	}()
	return met
}

func (w witness) tell(words map[string]any) {
	line, err := json.Marshal(words)
	if err == nil {
		_, err = w.Write(append(line, '\n'))
	}
	if err != nil {
		os.Exit(exitNoWitness)
	}
}

func (w witness) note(text string) { w.tell(map[string]any{"note": text, "at_ns": nowNS()}) }

func main() {
	startedNS := nowNS()
	drain := flag.Duration("drain", 0, "how long it goes on after the signal to stop")
	code := flag.Int("exit", 0, "what it ends with")
	flag.Parse()
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM)
	met := meet(startedNS)
	met.note("ready")
	<-told
	met.note("signal TERM")
	time.Sleep(*drain)
	os.Exit(*code)
}
