package bench

// Groups returns everything there is to measure, in the order of the table.
func Groups(env *Env) []Group {
	return []Group{
		startGroup(1, 0), startGroup(8, 0), startGroup(50, 3), startGroup(200, 2),
		killGroupRows(), workerGroup(), badStartGroup(), hostKilledGroup(),
		stopGroup(1, 0), stopGroup(8, 0), stopGroup(50, 3), zeroGraceGroup(),
		idleGroup(env),
		queryGroup(selectOne()), queryGroup(thousandRows()), contentionGroup(),
		loggerGroup(), durableGroup(), shipGroup(), allocGroup(),
	}
}
