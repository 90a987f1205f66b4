package main

import (
	"flag"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"go.etcd.io/etcd/server/v3/embed"
)

// runEtcd serves a single-member etcd on the loopback interface until SIGTERM or SIGINT.
func runEtcd() int {
	flags := flag.NewFlagSet("etcd", flag.ExitOnError)
	dataDir := flags.String("data-dir", "", "directory which keeps the data")
	clientPort := flags.Int("client-port", 0, "port on 127.0.0.1 for clients")
	peerPort := flags.Int("peer-port", 0, "port on 127.0.0.1 for peers")
	noFsync := flags.Bool("unsafe-no-fsync", false, "never call fsync: faster, loses data on a crash of the machine")
	_ = flags.Parse(os.Args[1:]) // flag.ExitOnError: returns only when there was no error
	if *dataDir == "" || *clientPort == 0 || *peerPort == 0 || flags.NArg() != 0 {
		fmt.Fprintln(os.Stderr, "etcd: --data-dir, --client-port and --peer-port are required, and no other arguments")
		flags.PrintDefaults()
		return 2
	}
	if err := serveEtcd(*dataDir, *clientPort, *peerPort, *noFsync); err != nil {
		fmt.Fprintln(os.Stderr, "etcd:", err)
		return 1
	}
	return 0
}

func serveEtcd(dataDir string, clientPort, peerPort int, noFsync bool) error {
	clientURLs := []url.URL{loopbackURL(clientPort)}
	peerURLs := []url.URL{loopbackURL(peerPort)}
	config := embed.NewConfig()
	config.Dir = dataDir
	config.ListenClientUrls, config.AdvertiseClientUrls = clientURLs, clientURLs
	config.ListenPeerUrls, config.AdvertisePeerUrls = peerURLs, peerURLs
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	config.UnsafeNoFsync = noFsync
	config.LogLevel = "warn"
	config.LogOutputs = []string{"stderr"}

	// Before the start, so that a signal which comes early is not lost.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)

	server, err := embed.StartEtcd(config)
	if err != nil {
		return err
	}
	defer server.Close()
	select {
	case <-signals:
		return nil
	case err := <-server.Err():
		return err
	case <-server.Server.StopNotify():
		return fmt.Errorf("the server stopped by itself")
	}
}

func loopbackURL(port int) url.URL {
	return url.URL{Scheme: "http", Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(port))}
}
