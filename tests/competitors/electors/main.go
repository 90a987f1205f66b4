// Command electors has the competitors with which leaderexec is tested: each runs a
// child while it leads, as leaderexec does, and keeps its own rules, with what is wrong with
// them.
//
// The first argument names the competitor, then come its flags, then -- and the command of the child. What
// happens is told on standard error, one JSON object a line: "campaigning", "leader is NAME",
// "leading", "child started", "child ended", "stopped". "standbys" is a load and has no child.
package main

import (
	"flag"
	"fmt"
	"log/slog"
	"os"
	"syscall"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

const (
	exitLost  = 1                          // leadership was lost, or could not be campaigned for
	exitUsage = 2                          // what flag.ExitOnError exits with too
	exitAsked = 128 + int(syscall.SIGTERM) // what SIGTERM would have made of it
	usage     = "usage: electors {clientgo|legacy2016} FLAG... -- COMMAND..., or electors standbys FLAG..."
)

var competitors = map[string]func(arguments []string) int{
	"clientgo":   runClientGo,
	"legacy2016": runLegacy,
	"standbys":   runStandbys,
}

// log writes the events.
var log = slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{
	ReplaceAttr: func(_ []string, attribute slog.Attr) slog.Attr {
		if attribute.Key == slog.MessageKey {
			attribute.Key = "event"
		}
		return attribute
	},
}))

func main() {
	if len(os.Args) < 2 || competitors[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(exitUsage)
	}
	klog.SetSlogLogger(log) // what client-go has to say is an event too
	os.Exit(competitors[os.Args[1]](os.Args[2:]))
}

// entrant is what every competitor is told.
type entrant struct {
	kubeconfig string
	election   string
	id         string
	command    []string
}

// parse adds the common flags to those of a competitor and reads all of them; it exits where something is
// missing.
func (e *entrant) parse(flags *flag.FlagSet, arguments []string) {
	flags.StringVar(&e.kubeconfig, "kubeconfig", "", "file with the address and credentials")
	flags.StringVar(&e.election, "election", "", "name of the election, and of its object")
	flags.StringVar(&e.id, "id", "", "this candidate's name")
	_ = flags.Parse(arguments) // exits by itself
	e.command = flags.Args()
	if e.kubeconfig == "" || e.election == "" || e.id == "" || len(e.command) == 0 {
		fmt.Fprintln(os.Stderr, "--kubeconfig, --election, --id and a command are required")
		os.Exit(exitUsage)
	}
}

// api says how the API server is reached.
func (e *entrant) api() *rest.Config {
	config, err := clientcmd.BuildConfigFromFlags("", e.kubeconfig)
	if err != nil {
		fail("cannot read the kubeconfig", err)
	}
	return config
}

// fail ends a candidate that cannot even campaign, or cannot run its child.
func fail(what string, err error) {
	log.Error(what, "error", err)
	os.Exit(exitLost)
}
