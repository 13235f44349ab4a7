-- What tests/bench/measure.py has wrk do: targets from a file, if one is named, and the figures as one line of JSON.

local targets = {}
local at = 0

function init(arguments)
   if arguments[1] then
      for line in io.lines(arguments[1]) do
         targets[#targets + 1] = line
      end
      math.randomseed(tonumber(tostring({}):match("0x%x+")) % 2 ^ 31)
      at = math.random(#targets)
      request = function()
         at = at % #targets + 1
         return wrk.format("GET", targets[at])
      end
   end
end

function done(summary)
   local errors = summary.errors
   local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
   io.write(string.format('{"requests": %d, "bytes": %d, "seconds": %.6f, "failed": %d}\n',
      summary.requests, summary.bytes, summary.duration / 1e6, failed))
end
