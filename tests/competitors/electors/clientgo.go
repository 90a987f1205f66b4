package main

import (
	"context"
	"flag"
	"os/signal"
	"syscall"
	"time"

	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

const (
	stopTimeout = 5 * time.Second        // from SIGTERM to SIGKILL when it is asked to stop
	watchPeriod = 100 * time.Millisecond // between two looks at the age of the last renewal
)

// clientGo is a candidate on a Lease with client-go's own elector: as good a competitor as one can be
// with it. Its child is dead before the lock is given back, and by the renew deadline after the last
// reply to a renewal.
type clientGo struct {
	entrant
	config leaderelection.LeaderElectionConfig
	ward   ward
}

func runClientGo(arguments []string) int {
	var c clientGo
	var namespace string
	var again bool
	flags := flag.NewFlagSet("clientgo", flag.ExitOnError)
	flags.StringVar(&namespace, "namespace", "default", "namespace of the Lease")
	flags.DurationVar(&c.config.LeaseDuration, "lease-duration", 15*time.Second, "as client-go's")
	flags.DurationVar(&c.config.RenewDeadline, "renew-deadline", 10*time.Second, "as client-go's")
	flags.DurationVar(&c.config.RetryPeriod, "retry-period", 2*time.Second, "as client-go's")
	flags.BoolVar(&again, "again", false, "campaign again when leadership was lost, and do not exit")
	c.parse(flags, arguments)

	identity := resourcelock.ResourceLockConfig{Identity: c.id}
	lock, err := resourcelock.NewFromKubeconfig(
		resourcelock.LeasesResourceLock, namespace, c.election, identity, c.api(), c.config.RenewDeadline)
	if err != nil {
		fail("cannot use the lock", err)
	}
	c.config.Lock = lock
	c.config.Name = c.election
	c.config.ReleaseOnCancel = true

	asked, _ := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	for {
		code, lost := c.campaign(asked)
		if !lost || !again {
			return code
		}
	}
}

// campaign stands for the election until leadership is lost or given up. It returns what to exit
// with, and whether leadership was lost.
func (c *clientGo) campaign(asked context.Context) (code int, lost bool) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	codes := make(chan int, 1)

	config := c.config // each campaign has callbacks of its own
	var elector *leaderelection.LeaderElector
	config.Callbacks = leaderelection.LeaderCallbacks{
		OnNewLeader: func(identity string) { log.Info("leader is "+identity, "leader", identity) },
		OnStartedLeading: func(ctx context.Context) {
			log.Info("leading")
			if c.lead(ctx, asked, elector, codes) {
				cancel() // gives the lock back at once, and so comes after the child's death
			}
		},
		OnStoppedLeading: func() {
			c.ward.kill()
			log.Info("stopped")
		},
	}
	elector, err := leaderelection.NewLeaderElector(config)
	if err != nil {
		fail("cannot campaign", err)
	}

	go func() {
		select {
		case <-asked.Done():
			c.ward.unlessOccupied(cancel) // lead stops a child first
		case <-ctx.Done():
		}
	}()
	log.Info("campaigning", "identity", c.id)
	elector.Run(ctx)

	if asked.Err() != nil {
		return exitAsked, false
	}
	select {
	case code := <-codes:
		return code, false
	default:
		return exitLost, true
	}
}

// lead runs the child. When it returns the child is dead; false if there was none.
//
// OnStoppedLeading alone would come too late: client-go first tries to release, which with a network
// that swallows everything takes another renew deadline, and until then ends no context either. Nor
// does it stop at once when it reads that the lock belongs to another.
func (c *clientGo) lead(
	ctx, asked context.Context, elector *leaderelection.LeaderElector, codes chan<- int,
) bool {
	child := c.ward.start(ctx, c.command)
	if child == nil {
		return false
	}
	defer c.ward.kill()
	looks := time.NewTicker(watchPeriod)
	defer looks.Stop()
	request := asked.Done()
	var patience <-chan time.Time
	for {
		select {
		case <-child.ended:
			codes <- child.code()
			return true
		case <-request:
			child.signal(syscall.SIGTERM)
			request, patience = nil, time.After(stopTimeout)
		case <-patience:
			child.signal(syscall.SIGKILL)
		case <-looks.C:
			// The tolerance counts from the end of the lease: this one ends at the renew deadline.
			stale := elector.Check(c.config.RenewDeadline - c.config.LeaseDuration)
			if stale != nil || !elector.IsLeader() {
				return true
			}
		case <-ctx.Done():
			return true
		}
	}
}
