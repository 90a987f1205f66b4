// Command controlplane is the Kubernetes control plane of leaderexec's tests: the real
// kube-apiserver, the real etcd and the real kubectl, linked into one program.
//
// The first argument selects which of them runs; the rest are its arguments. Under the name
// "etcd", "kube-apiserver" or "kubectl" (a symbolic link) the program is that one directly.
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

// commands maps the name of each part to its entry point, which finds its arguments in os.Args.
var commands = map[string]func() int{
	"etcd":           runEtcd,
	"kube-apiserver": runAPIServer,
	"kubectl":        runKubectl,
}

const usage = "usage: controlplane {etcd|kube-apiserver|kubectl} [argument ...]"

func main() {
	if run, found := commands[filepath.Base(os.Args[0])]; found {
		os.Exit(run())
	}
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(2)
	}
	run, found := commands[os.Args[1]]
	if !found {
		fmt.Fprintf(os.Stderr, "controlplane: no command %q\n%s\n", os.Args[1], usage)
		os.Exit(2)
	}
	os.Args = os.Args[1:]
	os.Exit(run())
}
