package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// standbys is a load and no candidate: many electors of client-go on one Lease, each with a
// connection of its own, as if each were a process. Somebody else leads all the time.
type standbys struct {
	requests atomic.Int64
	failures atomic.Int64
}

// runStandbys runs them until the end of standard input, and tells every second what they asked: one
// line with the number of requests that were answered, and of those that were not answered with 200.
func runStandbys(arguments []string) int {
	var s standbys
	var kubeconfig, namespace, election string
	var count int
	flags := flag.NewFlagSet("standbys", flag.ExitOnError)
	flags.StringVar(&kubeconfig, "kubeconfig", "", "file with the address and credentials")
	flags.StringVar(&namespace, "namespace", "default", "namespace of the Lease")
	flags.StringVar(&election, "election", "", "name of the Lease")
	flags.IntVar(&count, "count", 1, "how many there are")
	_ = flags.Parse(arguments) // exits by itself

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for number := range count {
		elector, err := s.elector(kubeconfig, namespace, election, fmt.Sprintf("standby-%d", number))
		if err != nil {
			fail("cannot campaign", err)
		}
		go elector.Run(ctx)
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	ticks := time.NewTicker(time.Second)
	defer ticks.Stop()
	for {
		select {
		case <-ticks.C:
			fmt.Printf("%d %d\n", s.requests.Load(), s.failures.Load())
		case <-ctx.Done():
			return 0
		}
	}
}

// elector returns one that campaigns with client-go's defaults.
func (s *standbys) elector(
	kubeconfig, namespace, election, identity string,
) (*leaderelection.LeaderElector, error) {
	api, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	// client-go keeps one connection for all that are alike; a dialler makes a difference.
	api.Dial = (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	api.Wrap(func(next http.RoundTripper) http.RoundTripper { return &counter{s, next} })
	config := leaderelection.LeaderElectionConfig{
		LeaseDuration: 15 * time.Second,
		RenewDeadline: 10 * time.Second,
		RetryPeriod:   2 * time.Second,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) {
				log.Error("a standby leads", "identity", identity)
				os.Exit(exitLost)
			},
			OnStoppedLeading: func() {},
		},
	}
	config.Lock, err = resourcelock.NewFromKubeconfig(
		resourcelock.LeasesResourceLock, namespace, election,
		resourcelock.ResourceLockConfig{Identity: identity}, api, config.RenewDeadline)
	if err != nil {
		return nil, err
	}
	return leaderelection.NewLeaderElector(config)
}

// counter counts what is answered.
type counter struct {
	standbys *standbys
	next     http.RoundTripper
}

func (c *counter) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := c.next.RoundTrip(request)
	if err == nil {
		c.standbys.requests.Add(1)
	}
	if err != nil || response.StatusCode != http.StatusOK {
		c.standbys.failures.Add(1)
	}
	return response, err
}
