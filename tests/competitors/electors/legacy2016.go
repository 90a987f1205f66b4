package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
)

const annotation = "control-plane.alpha.kubernetes.io/leader"

// record is what the annotation says, in the order in which it says it. Times have whole seconds on
// the wire.
type record struct {
	HolderIdentity       string      `json:"holderIdentity"`
	LeaseDurationSeconds int         `json:"leaseDurationSeconds"`
	AcquireTime          metav1.Time `json:"acquireTime"`
	RenewTime            metav1.Time `json:"renewTime"`
	LeaderTransitions    int         `json:"leaderTransitions"`
}

// legacy is a candidate that speaks the protocol of the leader-elector of 2016 on an Endpoints
// object, around a child.
//
// What later electors do and this one does not is part of the protocol: it never gives the lock
// back, takes no notice of the duration that a record names or of a holder that is empty, counts
// transitions in a holder's first write only, and puts no limit to the time that a request takes.
type legacy struct {
	entrant
	ttl       time.Duration
	endpoints corev1client.EndpointsInterface
	ward      ward

	observed   record
	observedAt time.Time // when that was first seen, on this machine's clock
	reported   string
	leader     atomic.Value // the name that is served
}

func runLegacy(arguments []string) int {
	var l legacy
	var namespace, address string
	flags := flag.NewFlagSet("legacy2016", flag.ExitOnError)
	flags.StringVar(&namespace, "election-namespace", "default", "namespace of the Endpoints")
	flags.DurationVar(&l.ttl, "ttl", 10*time.Second, "lease duration; renews for half of it, tries each quarter")
	flags.StringVar(&address, "http", "", "HOST:PORT at which to tell who leads")
	l.parse(flags, arguments)
	if l.ttl < time.Second {
		fmt.Fprintln(os.Stderr, "--ttl must be 1s or more: the record has whole seconds")
		return exitUsage
	}

	api := l.api()
	api.WarningHandler = rest.NoWarnings{} // that Endpoints are deprecated is no news here
	client, err := kubernetes.NewForConfig(api)
	if err != nil {
		fail("cannot use the API", err)
	}
	l.endpoints = client.CoreV1().Endpoints(namespace)
	if err := l.prepare(); err != nil {
		fail("cannot prepare the election", err)
	}
	if address != "" {
		l.serve(address)
	}

	alive, cancel := context.WithCancel(context.Background())
	asked, _ := signal.NotifyContext(alive, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-asked.Done()
		cancel()
		l.ward.kill()
		os.Exit(exitAsked)
	}()
	for {
		l.campaign(alive)
	}
}

// prepare makes the object where there is none, without a record, and learns who leads.
func (l *legacy) prepare() error {
	_, err := l.endpoints.Get(context.Background(), l.election, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		empty := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: l.election}}
		_, err = l.endpoints.Create(context.Background(), empty, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) { // another was faster; the original ended here
			err = nil
		}
	}
	if err != nil {
		return err
	}
	leader, err := l.current()
	l.tell(leader)
	return err
}

// current asks who holds the lock; the empty name is nobody.
func (l *legacy) current() (string, error) {
	object, err := l.endpoints.Get(context.Background(), l.election, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	found, err := read(object)
	return found.HolderIdentity, err
}

// read returns the record of an object, an empty one where it has none.
func read(object *corev1.Endpoints) (found record, err error) {
	if text, exists := object.Annotations[annotation]; exists {
		err = json.Unmarshal([]byte(text), &found)
	}
	return found, err
}

// campaign acquires, leads and loses.
func (l *legacy) campaign(alive context.Context) {
	log.Info("campaigning", "identity", l.id)
	l.acquire()
	log.Info("leading")
	l.tell(l.id)
	if child := l.ward.start(alive, l.command); child != nil {
		go func() {
			<-child.ended
			if l.ward.runs(child) {
				os.Exit(child.code()) // it ended by itself, and so does a wrapper
			}
		}()
	}
	for l.renew() {
	}
	l.ward.kill()
	log.Info("stopped")
	leader, err := l.current()
	if err != nil {
		log.Error("cannot learn who leads", "error", err)
	}
	l.tell(leader)
}

// acquire tries until it has succeeded, a quarter of the ttl and a random time apart.
func (l *legacy) acquire() {
	retry := l.ttl / 4
	for {
		held := l.try()
		l.report()
		if held {
			return
		}
		time.Sleep(retry + time.Duration(1.2*rand.Float64()*float64(retry)))
	}
}

// renew pauses, then tries until it has succeeded once; false when half of the ttl is over and one
// more try, the last, failed too. That the lock belongs to another changes nothing in this.
func (l *legacy) renew() bool {
	defer l.report()
	tries := time.NewTicker(l.ttl / 4)
	defer tries.Stop()
	deadline := time.After(l.ttl / 2)
	for {
		select {
		case <-tries.C:
			if l.try() {
				return true
			}
		case <-deadline:
			return l.try()
		}
	}
}

// try acquires or renews, by reading and then writing over what was read.
func (l *legacy) try() bool {
	ctx := context.Background()
	now := metav1.Now()
	next := record{l.id, int(l.ttl / time.Second), now, now, 0}
	object, err := l.endpoints.Get(ctx, l.election, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		fresh := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: l.election}}
		return l.wrote(next, fresh, func() error {
			_, err := l.endpoints.Create(ctx, fresh, metav1.CreateOptions{})
			return err
		})
	}
	if err != nil {
		log.Error("cannot read the lock", "error", err)
		return false
	}

	found, err := read(object)
	if err != nil {
		log.Error("cannot understand the lock", "error", err)
		return false
	}
	if _, exists := object.Annotations[annotation]; exists {
		if found != l.observed {
			l.observed, l.observedAt = found, time.Now()
		}
		if found.HolderIdentity != l.id && l.observedAt.Add(l.ttl).After(now.Time) {
			return false
		}
	}
	if found.HolderIdentity == l.id {
		next.AcquireTime = found.AcquireTime // but not the transitions, which start over
	} else {
		next.LeaderTransitions = found.LeaderTransitions + 1
	}
	return l.wrote(next, object, func() error {
		_, err := l.endpoints.Update(ctx, object, metav1.UpdateOptions{})
		return err
	})
}

// wrote puts the record on the object and says whether it could be written.
func (l *legacy) wrote(next record, object *corev1.Endpoints, write func() error) bool {
	text, err := json.Marshal(next)
	if err != nil {
		fail("cannot express the record", err)
	}
	metav1.SetMetaDataAnnotation(&object.ObjectMeta, annotation, string(text))
	if err := write(); err != nil {
		log.Error("cannot write the lock", "error", err)
		return false
	}
	l.observed, l.observedAt = next, time.Now()
	return true
}

// report tells of a holder that was not told of yet.
func (l *legacy) report() {
	if holder := l.observed.HolderIdentity; holder != l.reported {
		l.reported = holder
		l.tell(holder)
		log.Info("leader is "+holder, "leader", holder)
	}
}

// tell has a name served.
func (l *legacy) tell(leader string) {
	l.leader.Store(leader)
}

// serve answers every request with the name of the leader.
func (l *legacy) serve(address string) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		fail("cannot listen", err)
	}
	log.Info("serving", "address", listener.Addr().String())
	handler := func(response http.ResponseWriter, _ *http.Request) {
		body, _ := json.Marshal(map[string]any{"name": l.leader.Load()}) // a string can be expressed
		_, _ = response.Write(body)
	}
	go func() { fail("cannot serve", http.Serve(listener, http.HandlerFunc(handler))) }()
}
