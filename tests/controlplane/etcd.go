package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

// runEtcd is etcd with all its flags.
func runEtcd() int {
	etcdmain.Main(os.Args)
	return 0
}
