// Command goserver is a child in Go: an HTTP server with a worker process, as kinds.py has it.
//
//	goserver GATE CODE STUBBORN
//
// Asked to stop it takes no more requests, answers those that were begun, stops its worker and exits
// with CODE. A request for /slow is answered when the file GATE exists. With STUBBORN 1 nothing but
// SIGKILL ends it or its worker. It says on standard output where it listens, that a slow request
// was begun, and that it drains.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

const roleWorker = "worker"

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: goserver GATE CODE STUBBORN")
		os.Exit(2)
	}
	stubborn := os.Args[3] == "1"
	terms := make(chan os.Signal, 1)
	signal.Notify(terms, syscall.SIGTERM)
	if os.Args[1] == roleWorker {
		work(terms, stubborn)
	}
	code, err := strconv.Atoi(os.Args[2])
	check(err)
	worker := startWorker()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	server := &http.Server{Handler: handler(os.Args[1])}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	fmt.Println("port", listener.Addr().(*net.TCPAddr).Port)
	await(terms, stubborn)
	fmt.Println("draining")
	check(server.Shutdown(context.Background()))
	if err := <-served; err != http.ErrServerClosed {
		check(err)
	}
	check(worker.Process.Signal(syscall.SIGTERM))
	check(worker.Wait())
	os.Exit(code)
}

// handler answers at once, or what is slow when the gate is open.
func handler(gate string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/slow", func(writer http.ResponseWriter, _ *http.Request) {
		fmt.Println("begun")
		for {
			if _, err := os.Stat(gate); err == nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		fmt.Fprint(writer, "answered")
	})
	mux.HandleFunc("/", func(writer http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(writer, "answered")
	})
	return mux
}

// startWorker returns a worker that the witness knows: its first line says so.
func startWorker() *exec.Cmd {
	worker := exec.Command("/proc/self/exe", roleWorker, "0", os.Args[3])
	worker.Stderr = os.Stderr
	output, err := worker.StdoutPipe()
	check(err)
	check(worker.Start())
	_, err = bufio.NewReader(output).ReadString('\n')
	check(err)
	return worker
}

// work is the life of a worker, which only has to be there.
func work(terms <-chan os.Signal, stubborn bool) {
	witness, err := net.Dial("unix", os.Getenv("WITNESS_SOCKET"))
	check(err)
	check(json.NewEncoder(witness).Encode(map[string]any{
		"candidate": os.Getenv("WITNESS_CANDIDATE"),
		"run":       os.Getenv("LEADER_FENCING_TOKEN"),
		"main":      os.Getppid(),
		"role":      roleWorker,
	}))
	go func() { // it ends with the test, whatever became of it
		_, _ = witness.Read(make([]byte, 1))
		os.Exit(97)
	}()
	fmt.Println("connected")
	await(terms, stubborn)
	os.Exit(0)
}

// await returns at a request to stop, and for the stubborn never.
func await(terms <-chan os.Signal, stubborn bool) {
	<-terms
	for stubborn {
		<-terms
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "goserver:", err)
		os.Exit(1)
	}
}
